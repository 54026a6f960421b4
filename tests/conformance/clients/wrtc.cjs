// libwebrtc (npm @roamhq/wrtc) calls a server; its track is taken away in mid-call (`replaceTrack(null)`, for which
// this version says BYE) and comes back. Usage: wrtc.cjs OFFER_URL PCM_FILE PAUSE_AT_S: mono int16 at 48 kHz.
// Prints {"connected_s", "call"}, then the events.
const fs = require("fs");
const { RTCPeerConnection, nonstandard } = require("@roamhq/wrtc");

const [url, file, pauseAt] = process.argv.slice(2);
const PIECE = 480, PAUSE_S = 1.5; // 10 ms
const pcm = fs.readFileSync(file);
const samples = new Int16Array(pcm.buffer, pcm.byteOffset, pcm.length >> 1);
const source = new nonstandard.RTCAudioSource();
const track = source.createTrack();
const pc = new RTCPeerConnection({ iceServers: [] });
const sender = pc.addTrack(track);
const channel = pc.createDataChannel("events");
const over = new Promise((resolve) => {
  channel.onmessage = ({ data }) => {
    console.log(data);
    if (JSON.parse(data).type === "session.end") resolve();
  };
});
const until = (event, ready) => new Promise((resolve) => {
  const look = () => ready() && resolve();
  pc.addEventListener(event, look);
  look();
});

async function play(from, to) {
  const began = performance.now();
  for (let at = from; at + PIECE <= to; at += PIECE) {
    const wait = began + (at - from) / 48 - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const piece = new Int16Array(samples.subarray(at, at + PIECE));
    source.onData({ samples: piece, sampleRate: 48000, bitsPerSample: 16, channelCount: 1, numberOfFrames: PIECE });
  }
}

(async () => {
  await pc.setLocalDescription(await pc.createOffer());
  await until("icegatheringstatechange", () => pc.iceGatheringState === "complete");
  const body = JSON.stringify({ type: "offer", sdp: pc.localDescription.sdp });
  const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  const began = performance.now();
  await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
  await until("connectionstatechange", () => pc.connectionState === "connected");
  console.log(JSON.stringify({ connected_s: (performance.now() - began) / 1000, call: answer.call }));
  const pause = Math.round(48000 * pauseAt);
  await play(0, pause);
  await sender.replaceTrack(null);
  await new Promise((resolve) => setTimeout(resolve, 1000 * PAUSE_S));
  await sender.replaceTrack(track);
  await play(pause, samples.length);
  channel.send('{"type": "close"}');
  await over;
  pc.close();
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
