/* NAME.bin as it is, for a machine without files: extern const unsigned char NAME_weights[]. */
    .section .rodata.WEIGHTS, "a"
    .balign 64
    .global WEIGHTS
    .type WEIGHTS, %object
WEIGHTS:
    .incbin FILE
    .size WEIGHTS, . - WEIGHTS
