"""One endpoint of Starlette with a path parameter and a query parameter. Loaded by the servers named NAME-starlette."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def item(request: Request) -> JSONResponse:
    return JSONResponse({"item_id": request.path_params["item_id"], "q": request.query_params.get("q")})


app = Starlette(routes=[Route("/items/{item_id:int}", item)])
