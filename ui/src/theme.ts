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
  failed: string;
  skipped: string;
  change: string;
  ahead: string;
  surface: string;
  strong: string;
  classes: string[];
  font: string;
}

/** Colours of classes in the style sheet; further classes take them again with another dash. */
const CLASSES = 8;
const DASHES = [[], [8, 3], [2, 3], [8, 3, 2, 3]];

export const classColour = (label: number) => theme().classes[label % CLASSES]!;
/** For the page beside the canvas: follows the scheme by itself. */
export const classVar = (label: number) => `var(--class-${(Math.max(0, label) % CLASSES) + 1})`;
/** Neighbours differ in dash too, so that curves are told apart without colour. */
export const classDash = (label: number) => DASHES[(label + Math.floor(label / CLASSES)) % DASHES.length]!;

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
    failed: colour("--failed"),
    skipped: colour("--text-faint"),
    change: colour("--plot-change"),
    ahead: colour("--plot-ahead"),
    surface: colour("--surface"),
    strong: colour("--text"),
    classes: Array.from({ length: CLASSES }, (_, i) => colour(`--class-${i + 1}`)),
    font: `11px ${colour("--sans")}`,
  };
}
