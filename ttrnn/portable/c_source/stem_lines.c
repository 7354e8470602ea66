
static Value *line_of(ttrnn_state *state, int number, int line)
{
    const struct conv *conv = convs + number;
    return state->lines + conv->offset + (line % conv->kernel) * conv->width * conv->channels;
}

/* One value of an output line; with a bias comes a ReLU. */
static Value convolved(ttrnn_state *state, int number, int y, int x, int channel)
{
    const struct conv *conv = convs + number;
    const int kernel = conv->kernel, depth = conv->is_depthwise ? 1 : conv->channels;
    /* The values that a line of the kernel meets are contiguous, or if it is for one channel, those of that channel. */
    const int step = conv->is_depthwise ? conv->channels : 1, first = conv->is_depthwise ? channel : 0;
    const int top = y * conv->stride - kernel / 2, left = x * conv->stride - kernel / 2;
    const int from = left < 0 ? -left : 0, to = left + kernel < conv->width ? kernel : conv->width - left;
    Sum sum = conv->bias ? conv->bias[channel] : 0;
    for (int i = top < 0 ? -top : 0; i < kernel && top + i < conv->height; i++) {
        const Weight *weight = conv->weights + ((channel * kernel + i) * kernel + from) * depth;
        const Value *value = line_of(state, number, top + i) + (left + from) * conv->channels + first;
        for (int count = (to - from) * depth; count > 0; count--, weight++, value += step) {
            sum += (Sum)*weight * *value;
        }
    }
    sum = SETTLE(sum, conv, channel);
    return (Value)(conv->bias && sum < 0 ? 0 : sum);
}

/* One more line of a convolution's input is in its place: computes the output lines that it completes. Behind the last
   convolution, the values go to the first recurrent layer. */
static void take_input(ttrnn_state *state, int number)
{
    const struct conv *conv = convs + number;
    const int line = state->in_line[number]++;
    if (number == NUM_CONVS) {
        push_values(state, &layers[0].ih, state->gates, line_of(state, number, line), conv->width * conv->channels);
    } else {
        for (int y = state->out_line[number]; y < conv->out_height; y++) {
            const int below = y * conv->stride + conv->kernel / 2;
            if (line < (below < conv->height ? below : conv->height - 1)) {
                break;
            }
            Value *out = line_of(state, number + 1, y);
            for (int x = 0; x < conv->out_width; x++) {
                for (int channel = 0; channel < conv->out_channels; channel++) {
                    *out++ = convolved(state, number, y, x, channel);
                }
            }
            state->out_line[number] = (uint16_t)(y + 1);
            take_input(state, number + 1);
        }
    }
    if (line + 1 == conv->height) {
        state->in_line[number] = state->out_line[number] = 0;
    }
}
