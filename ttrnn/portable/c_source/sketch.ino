// Classifies the lines that a camera sends over the serial port. Put model.c and model.h beside this file.
extern "C" {
#include "model.h"
}

static ttrnn_state state;
static uint8_t line[TTRNN_WIDTH * TTRNN_CHANNELS];
static ttrnn_score scores[TTRNN_CLASSES];

void setup()
{
    Serial.begin(115200);
    ttrnn_reset(&state);
}

void loop()
{
    if (Serial.readBytes(line, sizeof line) != sizeof line || !ttrnn_line(&state, line)) {
        return;
    }
    ttrnn_scores(&state, scores);
    int best = 0;
    for (int i = 1; i < TTRNN_CLASSES; i++) {
        best = scores[i] > scores[best] ? i : best;
    }
    Serial.println(ttrnn_classes[best]);
}
