"""Teams, workspaces, users, agents and the instance itself."""

from __future__ import annotations

from typing import Any

from .call import Call, Method, Refusal
from .paging import page
from .store import Row

USER_ID = 1
LOGIN = "admin"
AGENT_ID = 1
INSTANCE_VERSION = "6.15.0"  # new enough for the workflow methods of the SDK
CREATED = "2025-01-01T00:00:00.000Z"


def user_json(call: Call) -> dict[str, Any]:
    teams = [{"id": team["id"], "name": team["name"], "roleId": 1, "role": "admin"} for team in call.store.teams.all()]
    return {
        "id": USER_ID,
        "login": LOGIN,
        "role": "admin",
        "roleId": 1,
        "name": "Local user",
        "email": "local@example.com",
        "logins": 1,
        "disabled": False,
        "lastLogin": CREATED,
        "createdAt": CREATED,
        "updatedAt": CREATED,
        "teams": teams,
    }


def agent_json(team_id: int) -> dict[str, Any]:
    return {
        "id": AGENT_ID,
        "name": "local agent",
        "token": "local",
        "status": "running",
        "userId": USER_ID,
        "teamId": team_id,
        "capabilities": {"types": {"app": {"enabled": True}, "app_gpu": {"enabled": True}}},
        "createdAt": CREATED,
        "updatedAt": CREATED,
        "isPublic": False,
        "type": "sly_agent",
        "disabled": False,
        "version": "6.7.40",
        "gpuInfo": {
            "is_available": True,
            "device_count": 1,
            "device_names": ["local"],
            "device_memory": [{"available": 8 << 30}],
        },
    }


def add_team(call: Call) -> Row:
    if any(team["name"] == call["name"] for team in call.store.teams.all()):
        raise Refusal(400, f"the team {call['name']!r} exists already")
    return call.store.teams.add(name=call["name"], description=call.get("description", ""), role="admin", usage={"plan": "local"})


def add_workspace(call: Call) -> Row:
    team = call.store.teams.get(call["teamId"])
    if any(workspace["name"] == call["name"] for workspace in call.store.workspaces.of(team["id"])):
        raise Refusal(400, f"the workspace {call['name']!r} exists already")
    return call.store.workspaces.add(name=call["name"], description=call.get("description", ""), teamId=team["id"])


def edit_team(call: Call) -> Row:
    return call.store.teams.change(call.store.teams.get(call["id"]), **_named(call))


def edit_workspace(call: Call) -> Row:
    return call.store.workspaces.change(call.store.workspaces.get(call["id"]), **_named(call))


def hide_workspace(call: Call) -> Row:
    return call.store.workspaces.change(call.store.workspaces.get(call["id"]), hidden=call.get("hidden", False))


def _named(call: Call) -> dict[str, Any]:
    return {key: call.body[key] for key in ("name", "description") if key in call.body}


def _one_user(call: Call) -> dict[str, Any]:
    if int(call["id"]) != USER_ID:
        raise Refusal(404, f"users: {call['id']} does not exist")
    return user_json(call)


def _one_agent(call: Call) -> dict[str, Any]:
    if int(call["id"]) != AGENT_ID:
        raise Refusal(404, f"agents: {call['id']} does not exist")
    return agent_json(call.store.teams.all()[0]["id"])


METHODS: dict[str, Method] = {
    "instance.version": lambda call: {"version": INSTANCE_VERSION},
    "users.me": user_json,
    "users.info": _one_user,
    "users.list": lambda call: page(call, [user_json(call)]),
    "members.list": lambda call: page(call, [user_json(call)]),
    "roles.list": lambda call: page(call, [{"id": 1, "role": "admin", "createdAt": CREATED, "updatedAt": CREATED}]),
    "agents.list": lambda call: page(call, [agent_json(call["teamId"])]),
    "agents.available": lambda call: [agent_json(call["teamId"])],
    "agents.info": _one_agent,
    "teams.list": lambda call: page(call, call.store.teams.all()),
    "teams.info": lambda call: call.store.teams.get(call["id"]),
    "teams.add": add_team,
    "teams.editInfo": edit_team,
    "workspaces.list": lambda call: page(call, call.store.workspaces.of(call["teamId"])),
    "workspaces.info": lambda call: call.store.workspaces.get(call["id"]),
    "workspaces.add": add_workspace,
    "workspaces.editInfo": edit_workspace,
    "workspaces.visibility.set": hide_workspace,
}
