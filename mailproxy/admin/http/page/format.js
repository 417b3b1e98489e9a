// Figures as text.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function count(number) {
  return number.toLocaleString("en", { maximumFractionDigits: 1 });
}

export function bytes(number) {
  let unit = 0;
  while (number >= 1000 && unit < UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${count(number)} ${UNITS[unit]}`;
}

/** A duration with its two largest units: 2d 3h. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "m"], [whole % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0s";
  return parts.slice(first, first + 2).filter(([value]) => value > 0).map(([value, unit]) => value + unit).join(" ");
}

export function milliseconds(number) {
  return number < 1000 ? `${number} ms` : duration(number / 1000);
}

/** The time of a moment in seconds since 1970, with the day if it is not today's. */
export function moment(seconds) {
  const then = new Date(seconds * 1000);
  const time = then.toLocaleTimeString("en-GB");
  return then.toDateString() === new Date().toDateString() ? time : `${day(seconds)} ${time}`;
}

export function day(seconds) {
  return new Date(seconds * 1000).toLocaleDateString("sv");  // 2026-11-30
}
