"""A `wasi:http` component: greets, and counts the bytes of a body as they stream by."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        count = 0
        with request.consume() as body, body.stream() as stream:
            try:
                while True:
                    count += len(stream.blocking_read(65536))
            except Err:  # the end of the body
                pass
        path = request.path_with_query() or "/"
        text = f"hello from a component: {path}, {count} bytes\n".encode()
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        answer = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with answer.write() as stream:
            stream.blocking_write_and_flush(text)
        OutgoingBody.finish(answer, None)
