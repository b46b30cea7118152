// Runs before the first paint: no flash of the wrong theme, no flash of what needs a script.
(() => {
  const root = document.documentElement;
  root.classList.replace("no-js", "js");
  let theme = null;
  try { theme = localStorage.getItem("gradscope-theme"); } catch (_) { /* storage may be barred */ }
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
})();
