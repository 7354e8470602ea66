// Finds events in the lines that a camera sends over the serial port. Put model.c and model.h beside this file.
extern "C" {
#include "model.h"
}

static ttrnn_watch watch;
static uint8_t line[TTRNN_WIDTH * TTRNN_CHANNELS];

void setup()
{
    Serial.begin(115200);
    ttrnn_watch_reset(&watch);
}

void loop()
{
    if (Serial.readBytes(line, sizeof line) != sizeof line || !ttrnn_watch_line(&watch, line)) {
        return;
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        if (watch.has_started[i]) {
            Serial.println(ttrnn_classes[i]);
        }
    }
}
