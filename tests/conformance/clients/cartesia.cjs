// npm @cartesia/cartesia-js in Node: URL WAV auto|manual; prints each event as JSON.
const fs = require("node:fs");
const { Cartesia } = require("@cartesia/cartesia-js");

const [url, path, mode] = process.argv.slice(2);
const speed = Number(process.env.SPEED ?? 4);
const wav = fs.readFileSync(path);
const rate = wav.readUInt32LE(24);
const pcm = wav.subarray(44);

async function main() {
  const client = new Cartesia({ apiKey: "sesame", baseURL: url });
  const settings = { model: "ink-2", encoding: "pcm_s16le", sample_rate: rate };
  const endpoint = mode === "auto" ? client.stt.autoFinalize : client.stt.manualFinalize;
  const socket = endpoint.websocket(settings);
  const talking = (async () => {
    const size = Math.floor(rate / 10) * 2;
    for (let begin = 0; begin < pcm.length; begin += size) {
      socket.sendRaw(pcm.subarray(begin, begin + size));
      await new Promise((resolve) => setTimeout(resolve, 100 / speed));
    }
    if (mode === "auto") {
      socket.send({ type: "close" });
    } else {
      socket.send("finalize");
      socket.send("close");
    }
  })();
  for await (const event of socket.stream()) {
    if (event.type === "message") console.log(JSON.stringify(event.message));
    else if (event.type === "error") throw event.error;
  }
  await talking;
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
