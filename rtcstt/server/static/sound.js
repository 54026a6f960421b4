// Where the sound comes from: a microphone or a recording, each as { stream, begin, stop, duration }.

const SPEECH = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/** @typedef {{ devices?: string[], file?: File, aloud?: boolean, onEnd?: () => void }} Wanted */

/** `kind`: microphone, file or screen; with `devices`, or with `file`, `aloud` and `onEnd`. */
export async function openSound(kind, /** @type {Wanted} */ { devices = [], file, aloud, onEnd }) {
  if (kind === "file") return { kind, ...(await recording(file, { aloud, onEnd })) };
  if (!navigator.mediaDevices) throw new DOMException("", "InsecureContext");
  const streams = kind === "screen" ? [await screen(onEnd)] : await each(devices.length ? devices : [""], microphone);
  const stream = new MediaStream(streams.flatMap((one) => one.getAudioTracks()));
  return { kind, stream, duration: null, begin() {}, stop: () => streams.forEach(stopTracks) };
}

/** Each microphone is a track, and so a speaker, of its own. */
function microphone(deviceId) {
  const audio = deviceId ? { ...SPEECH, deviceId: { exact: deviceId } } : SPEECH;
  return navigator.mediaDevices.getUserMedia({ audio });
}

async function each(ids, open) {
  const streams = [];
  try {
    for (const id of ids) streams.push(await open(id));
  } catch (error) {
    streams.forEach(stopTracks);
    throw error;
  }
  return streams;
}

/** What a tab or the system plays. Browsers offer it only together with a picture, which is not used. */
async function screen(onEnd) {
  const wanted = { video: true, audio: true, systemAudio: "include" }; // the last is Chromium's
  const stream = await navigator.mediaDevices.getDisplayMedia(wanted);
  const [audio] = stream.getAudioTracks();
  if (!audio) {
    stopTracks(stream);
    throw new DOMException("", "NoTabAudio");
  }
  audio.addEventListener("ended", onEnd);
  return stream;
}

/** A recording; each of two channels is a track of its own, so that both sides of a call get their captions. */
async function recording(file, { aloud, onEnd }) {
  const context = new AudioContext();
  try {
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    const source = new AudioBufferSourceNode(context, { buffer });
    const stream = new MediaStream();
    const sides = buffer.numberOfChannels === 2 ? 2 : 1;
    const splitter = new ChannelSplitterNode(context, { numberOfOutputs: sides });
    if (sides === 2) source.connect(splitter);
    for (let side = 0; side < sides; side++) {
      const out = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
      if (sides === 2) splitter.connect(out, side);
      else source.connect(out);
      stream.addTrack(out.stream.getAudioTracks()[0]);
    }
    if (aloud) source.connect(context.destination);
    source.onended = onEnd;
    const stop = () => {
      source.onended = null;
      stopTracks(stream);
      context.close();
    };
    return { stream, duration: buffer.duration, begin: () => source.start(), stop };
  } catch (error) {
    context.close();
    throw error;
  }
}

/** Microphones, named only once the page was allowed to use one. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId);
}

/**
 * Shows how loud a stream is, ten times a second; returns what stops it. `onSilence` is told of 5 s of nothing, and
 * of its end.
 */
export function watchLevel(stream, meter, onSilence) {
  const context = new AudioContext();
  const sum = new GainNode(context);
  const analyser = new AnalyserNode(context, { fftSize: 2048 });
  for (const track of stream.getAudioTracks()) {
    new MediaStreamAudioSourceNode(context, { mediaStream: new MediaStream([track]) }).connect(sum);
  }
  sum.connect(analyser);
  const wave = new Float32Array(analyser.fftSize);
  let silentSince = performance.now();
  let wasSilent = false;
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(wave);
    const power = wave.reduce((total, value) => total + value * value, 0) / wave.length;
    const decibels = 10 * Math.log10(power + 1e-10);
    meter.value = Math.max(0, 1 + decibels / 60); // -60 dB to full scale
    const now = performance.now();
    const muted = stream.getAudioTracks().some((track) => !track.enabled);
    if (power > 1e-9 || muted || context.state !== "running") silentSince = now;
    const isSilent = now - silentSince > 5000;
    if (isSilent !== wasSilent) onSilence((wasSilent = isSilent));
  }, 100);
  return () => {
    clearInterval(timer);
    if (context.state !== "closed") context.close();
    meter.value = 0;
  };
}

function stopTracks(stream) {
  stream.getTracks().forEach((track) => track.stop());
}
