
/* sums += weights[m] t: t is complete for one more index m of this level's input mode. */
static void add_level(Sum *sums, const struct level *level, int m, const Sum *t)
{
    const int rank = level->right_rank, rest = level->rest;
    const Weight *weights = level->weights + m * level->rows * rank;
    for (int row = 0; row < level->rows; row++, sums += rest) {
        for (int s = 0; s < rank; s++) {
            const Sum weight = *weights++;
            for (int j = 0; j < rest; j++) {
                sums[j] += weight * t[s * rest + j];
            }
        }
    }
}
