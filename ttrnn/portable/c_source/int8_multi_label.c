
void ttrnn_scores(const ttrnn_state *state, uint16_t *scores)
{
    Sum logits[TTRNN_CLASSES];
    ttrnn_logits(state, logits);
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        scores[i] = (uint16_t)(state->num_frames ? sigmoid(logits[i]) : 0);
    }
}
