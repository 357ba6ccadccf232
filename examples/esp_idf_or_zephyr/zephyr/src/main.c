#include <gesture.h>
#include <zephyr/kernel.h>

/* What a driver of the sensor would write. */
static float motion[GESTURE_MOTION_SIZE];

int main(void)
{
    static gesture_state state;
    float scores[GESTURE_SCORES_SIZE];

    gesture_init(&state);
    for (;;) {
        gesture_step(&state, motion, scores);
        printk("%d\n", scores[1] > 0.5f);
        k_msleep(10);
    }
    return 0;
}
