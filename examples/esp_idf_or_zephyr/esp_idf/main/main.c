#include <freertos/FreeRTOS.h>
#include <freertos/task.h>
#include <gesture.h>
#include <stdio.h>

/* What a driver of the sensor would write. */
static float motion[GESTURE_MOTION_SIZE];

void app_main(void)
{
    static gesture_state state;
    float scores[GESTURE_SCORES_SIZE];

    gesture_init(&state);
    for (;;) {
        gesture_step(&state, motion, scores);
        printf("%d\n", scores[1] > 0.5f);
        vTaskDelay(pdMS_TO_TICKS(10));
    }
}
