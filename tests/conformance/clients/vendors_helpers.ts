// What the vendor's JavaScript examples take from files of their own, which their page does not show.

export const AUDIO_CONTEXT_ENCODING = "pcm_f32le";

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Sends what a reader gives in tenths of a second, as fast as they last. */
export async function sendRealtimeAudioChunks(reader: any, send: (chunk: Uint8Array) => void, rate: number) {
  const parts: number[] = [];
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) parts.push(...value);
  const size = Math.floor(rate / 10) * 2;
  for (let begin = 0; begin < parts.length; begin += size) {
    send(Uint8Array.from(parts.slice(begin, begin + size)));
    await wait(100);
  }
}

/** Gathers samples into tenths of a second. */
export function createFloat32AudioChunker(rate: number, send: (chunk: ArrayBuffer) => void) {
  let kept: number[] = [];
  const flush = () => {
    if (kept.length) send(Float32Array.from(kept).buffer);
    kept = [];
  };
  return {
    append(samples: Float32Array) {
      kept.push(...samples);
      if (kept.length >= rate / 10) flush();
    },
    flush,
  };
}
