"""Requests over HTTP/2 that are sent as they are written, also where they break its rules."""

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded, StreamReset


def client_connection():
    """A connection that changes and refuses nothing of what it is given to send."""
    config = H2Configuration(header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)
    connection = H2Connection(config)
    connection.initiate_connection()
    return connection


async def exchange(connection, reader, writer, headers, body=b"", trailers=()):
    """Send a request and return the status that answers it, None if the stream is reset.

    `headers` and `trailers` are pairs of bytes. Raises ConnectionError if the connection ends.
    """
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, headers, end_stream=not body and not trailers)
    if body:
        connection.send_data(stream, body, end_stream=not trailers)
    if trailers:
        connection.send_headers(stream, trailers, end_stream=True)
    status, ended = None, False
    while not ended:
        writer.write(connection.data_to_send())
        data = await reader.read(65_536)
        if not data:
            raise ConnectionError
        for event in connection.receive_data(data):
            if isinstance(event, ConnectionTerminated):
                raise ConnectionError
            if getattr(event, "stream_id", None) == stream:
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                ended = ended or isinstance(event, StreamEnded | StreamReset)
    writer.write(connection.data_to_send())
    return status
