
void ttrnn_reset(ttrnn_state *state) { memset(state, 0, sizeof *state); }

int ttrnn_line(ttrnn_state *state, const uint8_t *pixels)
{
    take_line(state, pixels);
    if (++state->line < TTRNN_HEIGHT) {
        return 0;
    }
    state->line = 0;
    step(state);
    return 1;
}

void ttrnn_frame(ttrnn_state *state, const uint8_t *pixels)
{
    for (int line = 0; line < TTRNN_HEIGHT; line++, pixels += TTRNN_WIDTH * TTRNN_CHANNELS) {
        ttrnn_line(state, pixels);
    }
}

void ttrnn_logits(const ttrnn_state *state, Sum *logits)
{
    Value h[HIDDEN];
    memset(logits, 0, TTRNN_CLASSES * sizeof *logits);
    if (state->num_frames == 0) {
        return;
    }
    for (int i = 0; i < HIDDEN; i++) {
        h[i] = pooled(state, i);
    }
    add_values(logits, &head, 0, h, HIDDEN);
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        logits[i] = SETTLE(logits[i], &head, i) + head_bias[i];
    }
}
