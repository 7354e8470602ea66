
static void take_line(ttrnn_state *state, const uint8_t *pixels)
{
    push_pixels(state, &layers[0].ih, state->gates, pixels, TTRNN_WIDTH * TTRNN_CHANNELS);
}
