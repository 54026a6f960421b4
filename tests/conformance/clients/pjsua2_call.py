"""A telephone by PJSUA2 (PyPI pjsua2-python): pjsua2_call.py CALLEE WAV SECONDS DIGITS.

Calls, plays a WAV file, presses the digits (RFC 4733), and hangs up. Prints the state of the call as it
changes.
"""

import sys
import time

import pjsua2


class Call(pjsua2.Call):
    player = None
    confirmed = False

    def onCallState(self, prm):
        state = self.getInfo()
        print(state.stateText, state.lastStatusCode, flush=True)
        self.confirmed = state.state == pjsua2.PJSIP_INV_STATE_CONFIRMED

    def onCallMediaState(self, prm):
        if self.player is not None:
            self.player.startTransmit(self.getAudioMedia(-1))


def main(callee, recording, seconds, digits):
    config = pjsua2.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 1
    endpoint = pjsua2.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    endpoint.audDevManager().setNullDev()
    transport = pjsua2.TransportConfig()
    transport.boundAddress = transport.publicAddress = "127.0.0.1"
    endpoint.transportCreate(pjsua2.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    for codec in endpoint.codecEnum2():
        endpoint.codecSetPriority(codec.codecId, 255 if codec.codecId.startswith("PCMU") else 0)
    settings = pjsua2.AccountConfig()
    settings.idUri = "sip:pjsua2@127.0.0.1"
    media = settings.mediaConfig.transportConfig
    media.boundAddress = media.publicAddress = "127.0.0.1"
    account = pjsua2.Account()
    account.create(settings)
    call = Call(account)
    call.player = pjsua2.AudioMediaPlayer()
    call.player.createPlayer(recording, pjsua2.PJMEDIA_FILE_NO_LOOP)
    call.makeCall(callee, pjsua2.CallOpParam(True))
    while not call.confirmed:
        time.sleep(0.05)
    time.sleep(float(seconds))
    for digit in digits:
        call.dialDtmf(digit)
        time.sleep(0.4)
    time.sleep(0.5)
    call.hangup(pjsua2.CallOpParam())
    time.sleep(1.0)
    call.player = None
    del call, account
    endpoint.libDestroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
