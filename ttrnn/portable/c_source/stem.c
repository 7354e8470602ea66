
/* A convolution, padded with zeros by half of its kernel, which is odd. */
struct conv {
    const Weight *weights; /* (out_channels, kernel, kernel, in_channels, or 1 if it is depthwise) */
    const Sum *bias;
    SCALING
    uint16_t height, width, channels, stride; /* of the input */
    uint16_t out_height, out_width, out_channels;
    uint16_t offset; /* in state->lines, of the last `kernel` lines of the input */
    uint8_t kernel, is_depthwise;
};
