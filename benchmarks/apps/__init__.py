"""The same small application four times: native, ASGI, RSGI and WSGI. Run by the servers of ../servers.py.

GET / -> 13 bytes of text; GET /json -> an object, encoded for each request; POST /echo -> the request's body;
GET /10k -> 10,240 bytes. No framework. Each sends the fields a user would: content-type, and content-length where the
server leaves it to the application.
"""
