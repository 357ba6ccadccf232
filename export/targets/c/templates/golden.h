/* What the trained model itself gave. */
#define GOLDEN_STEPS $steps
/* Steps whose outputs are of no value. */
#define GOLDEN_LATE $late
/* An error may reach GOLDEN_ATOL + GOLDEN_RTOL * (the largest magnitude so far). */
#define GOLDEN_ATOL $atol
#define GOLDEN_RTOL $rtol
$arrays
