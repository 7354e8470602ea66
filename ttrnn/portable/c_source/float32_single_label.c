
void ttrnn_scores(const ttrnn_state *state, float *scores)
{
    float highest, total = 0;
    ttrnn_logits(state, scores);
    if (state->num_frames == 0) {
        return;
    }
    highest = scores[0];
    for (int i = 1; i < TTRNN_CLASSES; i++) {
        highest = scores[i] > highest ? scores[i] : highest;
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        scores[i] = expf(scores[i] - highest);
        total += scores[i];
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        scores[i] /= total;
    }
}
