
static void take_line(ttrnn_state *state, const uint8_t *pixels)
{
    Value *out = line_of(state, 0, state->line);
    for (int i = 0; i < TTRNN_WIDTH * TTRNN_CHANNELS; i++) {
        out[i] = (Value)(UNIT * pixels[i] - stem_mean[i % TTRNN_CHANNELS]);
    }
    take_input(state, 0);
}
