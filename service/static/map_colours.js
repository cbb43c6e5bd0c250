// Colours of points as numbers for a canvas: the bytes red, green, blue, alpha in memory order.

// The same as in images/rendering/atlas.py: visible on light and dark backgrounds.
export const PALETTE = [
  "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#2fa8a0", "#d4a818", "#9c755f", "#e377c2", "#6b7fd7",
  "#86bc40", "#b85c38", "#5b8c9b", "#d37295", "#8175aa", "#a0a83b", "#1f9e89", "#c0862c", "#ff9da7", "#76b7e2",
];
export const RAMP = ["#5b4a94", "#3b6ea5", "#21918c", "#5ec962", "#e8d32a"];
export const GREY = "#9a9a9a";

export const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
export const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
export const hex = (number) => `rgb(${number & 255} ${(number >> 8) & 255} ${(number >> 16) & 255})`;

function ramp(share) {
  const at = Math.min(share, 0.999999) * (RAMP.length - 1);
  const [low, high] = [channels(RAMP[Math.floor(at)]), channels(RAMP[Math.floor(at) + 1])];
  return packed(low.map((value, channel) => Math.round(value + (high[channel] - value) * (at - Math.floor(at)))));
}

const NAMED = PALETTE.map((colour) => packed(channels(colour)));
const NONE = packed(channels(GREY));
const SHADES = Uint32Array.from({ length: 256 }, (_, byte) => (byte === 255 ? NONE : ramp(byte / 254)));

// Colours of numbers from 0; `none` stands for no number.
export const byNumber = (numbers, none) => Uint32Array.from(numbers, (one) => (one === none ? NONE : NAMED[one % NAMED.length]));
// Colours of bytes from 0 to 254; 255 stands for unknown.
export const byShare = (bytes) => Uint32Array.from(bytes, (byte) => SHADES[byte]);
