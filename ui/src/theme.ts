/**
 * The colours of the plots, read from the style sheet, so that light and dark are decided in one place.
 */

export interface Theme {
  grid: string;
  text: string;
  curve: string;
  envelope: string;
  score: string;
  threshold: string;
  anomaly: string;
  calibrating: string;
  cursor: string;
  font: string;
}

let current: Theme | null = null;
const listeners = new Set<() => void>();

export function theme(): Theme {
  return (current ??= readTheme());
}

/** Calls back when the scheme changes; the returned function ends it. */
export function onTheme(changed: () => void): () => void {
  listeners.add(changed);
  return () => listeners.delete(changed);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  current = null;
  for (const listener of listeners) listener();
});

function readTheme(): Theme {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  return {
    grid: colour("--plot-grid"),
    text: colour("--text-faint"),
    curve: colour("--plot-curve"),
    envelope: colour("--plot-envelope"),
    score: colour("--plot-score"),
    threshold: colour("--plot-threshold"),
    anomaly: colour("--plot-anomaly"),
    calibrating: colour("--plot-calibrating"),
    cursor: colour("--text-faint"),
    font: `11px ${colour("--sans")}`,
  };
}
