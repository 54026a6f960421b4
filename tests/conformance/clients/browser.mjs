// npm @cartesia/cartesia-js in a page, with a short-lived token: what the test calls, and what it gets back.
import { Cartesia } from "@cartesia/cartesia-js";

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function samples(url) {
  const wav = await (await fetch(url)).arrayBuffer();
  return new Int16Array(wav, 44);
}

window.listen = async (baseURL, token, url, rate) => {
  const audio = await samples(url);
  const client = new Cartesia({ token, baseURL });
  const socket = client.stt.autoFinalize.websocket({ model: "ink-2", encoding: "pcm_f32le", sample_rate: rate });
  const talking = (async () => {
    for (let begin = 0; begin < audio.length; begin += rate / 10) {
      const chunk = Float32Array.from(audio.subarray(begin, begin + rate / 10), (sample) => sample / 32768);
      socket.sendRaw(chunk.buffer);
      await wait(25);
    }
    socket.send({ type: "close" });
  })();
  const events = [];
  for await (const event of socket.stream()) {
    if (event.type === "message") events.push(event.message);
    else if (event.type === "error") throw event.error;
  }
  await talking;
  return events;
};

window.transcribe = async (baseURL, token, url) => {
  const client = new Cartesia({ token, baseURL });
  const file = new File([await (await fetch(url)).arrayBuffer()], "a.wav");
  return await client.stt.transcribe({ file, model: "ink-whisper", language: "en" });
};
