
void ttrnn_scores(const ttrnn_state *state, float *scores)
{
    ttrnn_logits(state, scores);
    for (int i = 0; state->num_frames && i < TTRNN_CLASSES; i++) {
        scores[i] = sigmoid(scores[i]);
    }
}
