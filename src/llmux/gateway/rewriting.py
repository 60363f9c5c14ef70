"""What a request says to its backend, where that is not what its client has said: another name for the model, members
of its JSON body taken out and put in.

Changes the request in place, and knows no sockets. Ordinary requests, which name their model as its backend knows it,
never come here.
"""

from __future__ import annotations

from llmux.errors import UnsupportedEncodingError
from llmux.gateway.routing import IN_BODY, IN_QUERY, NOWHERE, Route
from llmux.gateway.settings import Backend
from llmux.wire.peek import with_model
from llmux.wire.request import Request
from llmux.wire.rewrite import Params, with_model_in_query, with_params


def shape(request: Request, backend: Backend, route: Route) -> Route:
    """Apply the model's `params`; and name the model in a JSON body that names none, as a client would have had to.
    Returns the route, which may now be one by the body.

    Raises:
        UnsupportedEncodingError: the body is compressed.
        BadRequestError: it cannot be read.
    """
    if backend.params is not None and request.body:
        coding = request.content_encoding
        if coding is not None and coding.lower() != b"identity":
            raise UnsupportedEncodingError(
                f"the request's body is compressed, and `strip_params` or `set_params` of {backend.model!r} need to "
                "read it"
            )
        request.body = with_params(request.content_type, request.body, backend.params)
    if route.named != NOWHERE:
        return route
    request.body = with_params(request.content_type, request.body, Params.of(put={"model": backend.model}))
    return Route(backend.model, route.path, IN_BODY)


def rename(request: Request, backend: Backend, asked: Route) -> None:
    """Have the request call the model by the name that its backend knows.

    Raises:
        BadRequestError: the body cannot be read.
    """
    if asked.name == backend.model:
        name = backend.send_model_as
    elif backend.keep_aliases:
        return
    else:
        name = backend.send_model_as or backend.model
    if name is None:
        return
    if asked.named == IN_BODY:
        request.body = with_model(request.content_type, request.body, name)
    elif asked.named == IN_QUERY:
        request.query = b"?" + with_model_in_query(request.query[1:], name)
