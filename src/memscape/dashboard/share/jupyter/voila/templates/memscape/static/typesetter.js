// Formulas are MathML, which browsers draw themselves. Voilà loads a typesetter all the same, and calls it for every
// output in the words of MathJax 2: it finds this one, which has nothing to do.
(() => {
  const nothing = () => {};
  globalThis.MathJax = { Hub: { Config: nothing, Configured: nothing, Queue: nothing, Register: { StartupHook: nothing } } };
})();
