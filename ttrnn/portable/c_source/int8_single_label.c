
void ttrnn_scores(const ttrnn_state *state, uint16_t *scores)
{
    Sum logits[TTRNN_CLASSES], highest;
    uint32_t total = 0;
    ttrnn_logits(state, logits);
    highest = logits[0];
    for (int i = 1; i < TTRNN_CLASSES; i++) {
        highest = logits[i] > highest ? logits[i] : highest;
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        scores[i] = (uint16_t)exponential(highest - logits[i]);
        total += scores[i];
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        scores[i] = (uint16_t)(state->num_frames ? (scores[i] * (uint32_t)32768 + total / 2) / total : 0);
    }
}
