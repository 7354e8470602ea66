
/* Core k of a tensor train: t_k[(r, n_k), rest] = sum over m_k and s of weights[m_k, (r, n_k), s] t_{k+1}[s, rest]. */
struct level {
    const Weight *weights;
    SCALING
    uint16_t in_mode, rows, right_rank, rest;
    uint16_t offset; /* of t_k in state->levels; t_1 is in the memory of the result */
};

struct product {
    const struct level *levels;
    int num_levels;
};
