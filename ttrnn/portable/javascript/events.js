// Find events in a stream without end, as ttrnn/events.py defines them; in models with a window and thresholds only.
//
// Legend: W window and P hop in frames, t number of the frame.
const { window: W, hop: P, thresholds } = config.events;

class Watch {
  constructor() {
    this.reset();
  }

  // Starts again, as before the first frame.
  reset() {
    this.streams = [];
    this.open = new Map();
    this.t = 0;
  }

  // Takes one more frame and returns the scores of the oldest state by class, the events that were detected at this
  // frame, and those that are over.
  push(image) {
    const frame = asFrame(image), t = this.t++, { streams, open } = this, started = [];
    if (t % P == 0) {
      const state = streams.length < W / P ? stream() : streams.shift();
      state.reset();
      streams.push(state);
    }
    const shared = {};
    const [scores] = streams.map(state => state.take(frame, shared));
    const first = P * Math.max(0, Math.floor(t / P) - W / P + 1);
    const over = [...open.values()].filter(event => first > event.end);
    for (const { label } of over) open.delete(label);
    classes.forEach((label, i) => {
      const score = Math.fround(scores[label]), event = open.get(label);
      if (thresholds[i] === null || score < thresholds[i] || t < W - P) return;
      if (event) {
        event.end = t + 1;
        event.score = Math.max(event.score, score);
      } else {
        open.set(label, { label, start: first, detected: t, end: t + 1, score });
        started.push({ ...open.get(label) });
      }
    });
    return { scores, started, over };
  }

  // The events that go on when the stream ends.
  finish() {
    const over = [...this.open.values()];
    this.open.clear();
    return over;
  }
}

export const watch = () => new Watch();
