// libdatachannel (npm node-datachannel) calls a server: a track of Opus and a data channel, which it offers with
// `setup:actpass`. Usage: libdatachannel.cjs OFFER_URL PACKETS_JSON. Prints {"connected_s", "call"}, then the events.
const fs = require("fs");
const { Audio, PeerConnection, RtpPacketizationConfig, cleanup } = require("node-datachannel");

const [url, file] = process.argv.slice(2);
const packets = JSON.parse(fs.readFileSync(file)).map((text) => Buffer.from(text, "base64"));
const PAYLOAD_TYPE = 111, SSRC = 4711;

const rtp = (payload, index) => {
  const header = Buffer.alloc(12);
  header.writeUInt8(0x80, 0);
  header.writeUInt8(PAYLOAD_TYPE | (index ? 0 : 0x80), 1);
  header.writeUInt16BE((7000 + index) & 0xffff, 2);
  header.writeUInt32BE((960 * index) >>> 0, 4);
  header.writeUInt32BE(SSRC, 8);
  return Buffer.concat([header, payload]);
};

const pc = new PeerConnection("caller", { iceServers: [] });
const connected = new Promise((resolve) => pc.onStateChange((state) => state === "connected" && resolve()));
const gathered = new Promise((resolve) => pc.onGatheringStateChange((state) => state === "complete" && resolve()));
const media = new Audio("0", "SendOnly");
media.addOpusCodec(PAYLOAD_TYPE);
media.addSSRC(SSRC, "caller");
const track = pc.addTrack(media);
const channel = pc.createDataChannel("events");
const over = new Promise((resolve) => {
  channel.onMessage((text) => {
    console.log(text);
    if (JSON.parse(text).type === "session.end") resolve();
  });
});

(async () => {
  pc.setLocalDescription();
  await gathered;
  const body = JSON.stringify({ type: "offer", sdp: pc.localDescription().sdp });
  const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  const began = performance.now();
  pc.setRemoteDescription(answer.sdp, "answer");
  await connected;
  console.log(JSON.stringify({ connected_s: (performance.now() - began) / 1000, call: answer.call, sdp: answer.sdp }));
  const first = performance.now();
  for (let index = 0; index < packets.length; index++) {
    const wait = first + 20 * index - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    track.sendMessageBinary(rtp(packets[index], index));
  }
  channel.sendMessage('{"type": "close"}');
  await over;
  pc.close();
  cleanup();
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
