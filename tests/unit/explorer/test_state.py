from fastapi import FastAPI
from fastapi.testclient import TestClient

from seglens.explorer.names import GivenName
from seglens.explorer.state import CurrentState


def test_a_route_is_given_the_state_of_its_app(held):
    app = FastAPI()

    @app.get("/names")
    def names(state: CurrentState) -> list[str]:
        return [given.name for given in state.names.of("one").values()]

    app.state.explorer = held
    held.names.give("one", 1, GivenName(name="rim"))
    with TestClient(app) as client:
        assert client.get("/names").json() == ["rim"]


def test_surveys_are_made_one_after_the_other(held):
    assert held.surveying.total_tokens == 1
