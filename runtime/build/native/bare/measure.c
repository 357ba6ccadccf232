/* How deep a step goes into the stack: the linker sends the self-test's calls of NAME_step here (--wrap), the free stack
   is painted, and what the step left unpainted is counted. The defines come from the command line. */
#include <stdint.h>
#include <stdio.h>
#include HEADER

#define PAINT 0x5AFE57ACu
extern uint32_t stack_limit[];
void REAL_STEP(PARAMETERS);
void WRAPPED_STEP(PARAMETERS);
void print_measures(void);

static unsigned long deepest, steps;

void WRAPPED_STEP(PARAMETERS)
{
    volatile uint32_t *top, *word;
#ifdef __riscv
    __asm__ volatile("mv %0, sp" : "=r"(top));
#else
    __asm__ volatile("mov %0, sp" : "=r"(top));
#endif
    for (word = stack_limit; word < top; word++) *word = PAINT;
    REAL_STEP(ARGUMENTS);
    for (word = stack_limit; word < top && *word == PAINT; word++) {}
    const unsigned long used = (unsigned long)((char *)top - (char *)word);
    deepest = used > deepest ? used : deepest;
    steps++;
}

void print_measures(void)
{
    printf("rnn-export: steps %lu, stack %lu, state %lu\n", steps, deepest, (unsigned long)STATE_BYTES);
}
