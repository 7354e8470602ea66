
#define NUM_STATES (TTRNN_WINDOW / TTRNN_HOP)

void ttrnn_watch_reset(ttrnn_watch *watch) { memset(watch, 0, sizeof *watch); }

/* Begins a state before each frame 0, hop, 2 hop ..; it takes the place of the oldest once there are NUM_STATES. */
static void begin_state(ttrnn_watch *watch)
{
    const uint32_t newest = (watch->oldest + watch->num_states + NUM_STATES - 1) % NUM_STATES;
    if (watch->num_states > 0 && watch->states[newest].num_frames < TTRNN_HOP) {
        return;
    }
    if (watch->num_states < NUM_STATES) {
        watch->num_states++;
    } else {
        ttrnn_reset(watch->states + watch->oldest);
        watch->oldest = (watch->oldest + 1) % NUM_STATES;
    }
}

/* A frame is complete. Only differences of frame numbers are compared, so these may wrap. */
static void find_events(ttrnn_watch *watch)
{
    const ttrnn_state *oldest = watch->states + watch->oldest;
    const uint32_t end = ++watch->num_frames, seen = oldest->num_frames;
    ttrnn_scores(oldest, watch->scores);
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        ttrnn_event *event = watch->events + i;
        const ttrnn_score score = watch->scores[i];
        watch->has_started[i] = 0;
        watch->is_over[i] = watch->is_open[i] && seen < end - event->end;
        if (watch->is_over[i]) {
            watch->over[i] = *event;
            watch->is_open[i] = 0;
        }
        if (score >= thresholds[i] && seen > TTRNN_WINDOW - TTRNN_HOP) {
            if (!watch->is_open[i]) {
                watch->has_started[i] = watch->is_open[i] = 1;
                event->start = end - seen;
                event->detected = end - 1;
                event->score = score;
            }
            event->end = end;
            event->score = score > event->score ? score : event->score;
        }
    }
}

int ttrnn_watch_line(ttrnn_watch *watch, const uint8_t *pixels)
{
    int is_complete = 0;
    begin_state(watch);
    for (uint32_t i = 0; i < watch->num_states; i++) {
        is_complete = ttrnn_line(watch->states + i, pixels);
    }
    if (is_complete) {
        find_events(watch);
    }
    return is_complete;
}

void ttrnn_watch_frame(ttrnn_watch *watch, const uint8_t *pixels)
{
    for (int line = 0; line < TTRNN_HEIGHT; line++, pixels += TTRNN_WIDTH * TTRNN_CHANNELS) {
        ttrnn_watch_line(watch, pixels);
    }
}
