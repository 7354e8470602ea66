
/* Only what moved since the frame before. */
static void take_line(ttrnn_state *state, const uint8_t *pixels)
{
    uint8_t *previous = state->previous_frame + state->line * TTRNN_WIDTH * TTRNN_CHANNELS;
    Value *out = line_of(state, 0, state->line);
    for (int i = 0; i < TTRNN_WIDTH * TTRNN_CHANNELS; i++) {
        out[i] = (Value)(state->num_frames ? UNIT * (pixels[i] - previous[i]) : 0);
        previous[i] = pixels[i];
    }
    take_input(state, 0);
}
