// Before the page is painted, so that it never flashes in the other colours.
"use strict";

(() => {
  const KEY = "wcs-gateway.theme";
  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  const chosen = stored();
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
