/* Events in a stream without end, as ttrnn/events.py defines them: window and hop in frames. A class has an event from
   the first frame at which its score reaches its threshold. */
#define TTRNN_WINDOW @window@
#define TTRNN_HOP @hop@

typedef struct {
    uint32_t start, detected, end; /* frames of the stream, from 0; end follows the last */
    ttrnn_score score;             /* the highest */
} ttrnn_event;

/* In the place of a ttrnn_state: @bytes@ bytes, its states included, each of which takes every frame. */
typedef struct {
    ttrnn_state states[TTRNN_WINDOW / TTRNN_HOP];
    ttrnn_event events[TTRNN_CLASSES]; /* that go on where is_open is 1 */
    ttrnn_event over[TTRNN_CLASSES];   /* that are over since this frame where is_over is 1 */
    uint32_t num_frames, oldest, num_states;
    ttrnn_score scores[TTRNN_CLASSES];  /* of this frame, by the oldest state */
    uint8_t has_started[TTRNN_CLASSES]; /* 1 if an event was detected at this frame: the trigger */
    uint8_t is_open[TTRNN_CLASSES];     /* at the end of the stream these events are over */
    uint8_t is_over[TTRNN_CLASSES];
} ttrnn_watch;

/* Starts a stream. Call it before anything else. */
void ttrnn_watch_reset(ttrnn_watch *watch);

/* Takes one more line of a frame; returns 1 if the frame is complete, and then the fields above are set, else 0. */
int ttrnn_watch_line(ttrnn_watch *watch, const uint8_t *pixels);

/* Takes all lines of a frame, between frames only. */
void ttrnn_watch_frame(ttrnn_watch *watch, const uint8_t *pixels);

