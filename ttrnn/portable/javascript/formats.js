// Make the cores of a tensor train from the tensors of another format. A site is one core: the numbers of its tensors,
// the letters of their axes, those of the core, rows (n, r) and columns (m, s), and the sizes of letters that no tensor
// has. A letter that stands twice in the core is a diagonal.
function makeCores(cores, sites, { shapes, scale }) {
  const tensors = shapes.map(shape => weights(shape.reduce((a, b) => a * b, 1)));
  return cores.map(([R, M, N, S], k) => {
    const [numbers, terms, result, sizes] = sites[k], core = new Float64Array(R * M * N * S);
    terms.forEach((term, n) => [...term].forEach((letter, axis) => sizes[letter] = shapes[numbers[n]][axis]));
    const letters = Object.keys(sizes);
    // By how much an index moves the place in the core and in each tensor.
    const steps = [result, ...terms].map(term => {
      const step = {};
      [...term].reduceRight((width, letter) => {
        step[letter] = (step[letter] ?? 0) + width;
        return width * sizes[letter];
      }, 1);
      return letters.map(letter => step[letter] ?? 0);
    });
    const visit = (depth, [to, ...places]) => {
      if (depth == letters.length) {
        core[to] += places.reduce((value, place, n) => value * tensors[numbers[n]][place], k ? 1 : scale);
        return;
      }
      for (let i = 0; i < sizes[letters[depth]]; i++)
        visit(depth + 1, [to, ...places].map((place, n) => place + i * steps[n][depth]));
    };
    visit(0, [result, ...terms].map(() => 0));
    return core;
  });
}
