
struct layer {
    struct product ih, hh;
    const Sum *offset;  /* added to the product with a frame */
    const Sum *bias;    /* with differences between frames */
    const Sum *bias_hn; /* of a GRU */
};
