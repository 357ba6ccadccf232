//@if weights_file
#ifndef NAME_WEIGHTS_EMBEDDED
static unsigned char name_weights[NAME_WEIGHTS_BYTES] __attribute__((aligned(64)));
#endif

//@end weights_file
