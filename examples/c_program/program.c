/* Frames of 40 features on stdin, two scores a frame on stdout. */
#include <spotter.h>
#include <stdio.h>

int main(void)
{
    static spotter_state state; /* one stream */
    float features[SPOTTER_FEATURES_SIZE], scores[SPOTTER_SCORES_SIZE];

    spotter_init(&state);
    while (fread(features, sizeof features, 1, stdin) == 1) {
        spotter_step(&state, features, scores);
        fwrite(scores, sizeof scores, 1, stdout);
    }
#ifdef RNN_PROFILE
    for (int i = 0; i < SPOTTER_OPERATORS; i++) {
        const spotter_operator *it = &spotter_profile[i];
        fprintf(stderr, "%-20s %-10s %8.1f ns a step\n", it->layer, it->type, (double)it->ticks / (double)it->calls);
    }
#endif
    return 0;
}
