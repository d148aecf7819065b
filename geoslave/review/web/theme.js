// Dark or light: as the system says, until the person says otherwise. Runs before anything is drawn.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("geoslave.theme");
  } catch {
    // storage is switched off: the system decides
  }
  const apply = () => {
    root.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("geoslave.theme", chosen);
    } catch {
      // it holds until the page is closed
    }
    apply();
  });
})();
