//@if weights_file
#ifdef NAME_WEIGHTS_EMBEDDED
extern const unsigned char name_weights[];
#else
static unsigned char name_weights[NAME_WEIGHTS_BYTES] __attribute__((aligned(64)));
#endif

//@end weights_file
