"""`python -m examples.transcriber.serve PORT`: the transcriber under uvicorn, which says when it listens."""

import asyncio
import sys

import uvicorn
from examples.transcriber.backend import app


async def serve(port: int) -> None:
    """Until SIGTERM."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    listening = asyncio.create_task(server.serve())
    while not server.started and not listening.done():
        await asyncio.sleep(0.05)
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    await listening


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
