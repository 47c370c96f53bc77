"""DirectoryService."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wireroom_auth.domain.directory import NewUser, UserChange
from wireroom_auth.domain.invitations import Invitation
from wireroom_auth.domain.roles import RoleDefinition
from wireroom_auth.domain.tenants import Tenant, TenantChange
from wireroom_auth.transport.messages import timestamp, user_message
from wireroom_auth.usecases.manage_invitations import ManageInvitations
from wireroom_auth.usecases.manage_roles import ManageRoles
from wireroom_auth.usecases.manage_tenants import ManageTenants
from wireroom_auth.usecases.manage_users import ManageUsers
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


@dataclass(frozen=True)
class DirectoryServicer(auth_pb2_grpc.DirectoryServiceServicer):
    """DirectoryService."""

    users: ManageUsers
    roles: ManageRoles
    invitations: ManageInvitations
    tenants: ManageTenants

    async def CreateUser(self, request: auth_pb2.CreateUserRequest, context: Any) -> auth_pb2.CreateUserResponse:  # noqa: ARG002, N802
        new = NewUser(
            email=request.email,
            name=request.name,
            roles=tuple(request.roles),
            password=request.password,
            password_hash=request.password_hash,
        )
        user = await self.users.create(current_principal(), new)
        return auth_pb2.CreateUserResponse(user=user_message(user, user.permissions))

    async def GetUser(self, request: auth_pb2.GetUserRequest, context: Any) -> auth_pb2.GetUserResponse:  # noqa: ARG002, N802
        user = await self.users.get(current_principal(), request.id)
        return auth_pb2.GetUserResponse(user=user_message(user, user.permissions))

    async def ListUsers(self, request: auth_pb2.ListUsersRequest, context: Any) -> auth_pb2.ListUsersResponse:  # noqa: ARG002, N802
        users, token = await self.users.page(current_principal(), request.query, request.page_size, request.page_token)
        return auth_pb2.ListUsersResponse(users=[user_message(user, user.permissions) for user in users], next_page_token=token)

    async def UpdateUser(self, request: auth_pb2.UpdateUserRequest, context: Any) -> auth_pb2.UpdateUserResponse:  # noqa: ARG002, N802
        change = UserChange(
            name=request.name if request.HasField("name") else None,
            roles=tuple(request.roles.names) if request.HasField("roles") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
        )
        user = await self.users.update(current_principal(), request.id, change)
        return auth_pb2.UpdateUserResponse(user=user_message(user, user.permissions))

    async def DeleteUser(self, request: auth_pb2.DeleteUserRequest, context: Any) -> auth_pb2.DeleteUserResponse:  # noqa: ARG002, N802
        erasure_id = await self.users.delete(
            current_principal(), request.id, erase_shared=request.erase_shared, transfer_to=request.transfer_to
        )
        return auth_pb2.DeleteUserResponse(erasure_id=str(erasure_id))

    async def CreateInvitation(  # noqa: N802
        self,
        request: auth_pb2.CreateInvitationRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.CreateInvitationResponse:
        invitation, token = await self.invitations.create(
            current_principal(), request.email, request.roles, request.ttl_seconds, request.tenant_id
        )
        return auth_pb2.CreateInvitationResponse(invitation=_invitation(invitation), token=token)

    async def ListInvitations(  # noqa: N802
        self,
        request: auth_pb2.ListInvitationsRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.ListInvitationsResponse:
        found, token = await self.invitations.page(current_principal(), request.page_size, request.page_token)
        return auth_pb2.ListInvitationsResponse(invitations=[_invitation(one) for one in found], next_page_token=token)

    async def RevokeInvitation(  # noqa: N802
        self,
        request: auth_pb2.RevokeInvitationRequest,
        context: Any,  # noqa: ARG002
    ) -> auth_pb2.RevokeInvitationResponse:
        await self.invitations.revoke(current_principal(), request.id)
        return auth_pb2.RevokeInvitationResponse()

    async def PutRole(self, request: auth_pb2.PutRoleRequest, context: Any) -> auth_pb2.PutRoleResponse:  # noqa: ARG002, N802
        role = await self.roles.put(current_principal(), request.name, request.permissions)
        return auth_pb2.PutRoleResponse(role=_role(role))

    async def ListRoles(self, request: auth_pb2.ListRolesRequest, context: Any) -> auth_pb2.ListRolesResponse:  # noqa: ARG002, N802
        return auth_pb2.ListRolesResponse(roles=[_role(role) for role in await self.roles.all(current_principal())])

    async def DeleteRole(self, request: auth_pb2.DeleteRoleRequest, context: Any) -> auth_pb2.DeleteRoleResponse:  # noqa: ARG002, N802
        await self.roles.delete(current_principal(), request.name)
        return auth_pb2.DeleteRoleResponse()

    async def CreateTenant(self, request: auth_pb2.CreateTenantRequest, context: Any) -> auth_pb2.CreateTenantResponse:  # noqa: ARG002, N802
        return auth_pb2.CreateTenantResponse(tenant=_tenant(await self.tenants.create(current_principal(), request.name)))

    async def ListTenants(self, request: auth_pb2.ListTenantsRequest, context: Any) -> auth_pb2.ListTenantsResponse:  # noqa: ARG002, N802
        tenants, token = await self.tenants.page(current_principal(), request.page_size, request.page_token)
        return auth_pb2.ListTenantsResponse(tenants=[_tenant(tenant) for tenant in tenants], next_page_token=token)

    async def UpdateTenant(self, request: auth_pb2.UpdateTenantRequest, context: Any) -> auth_pb2.UpdateTenantResponse:  # noqa: ARG002, N802
        change = TenantChange(
            name=request.name if request.HasField("name") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
        )
        return auth_pb2.UpdateTenantResponse(tenant=_tenant(await self.tenants.update(current_principal(), request.id, change)))


def _invitation(invitation: Invitation) -> auth_pb2.Invitation:
    return auth_pb2.Invitation(
        id=str(invitation.id),
        email=invitation.email,
        roles=invitation.roles,
        created_at=timestamp(invitation.created_at),
        expires_at=timestamp(invitation.expires_at),
        accepted_at=timestamp(invitation.accepted_at),
    )


def _role(role: RoleDefinition) -> auth_pb2.Role:
    return auth_pb2.Role(name=role.name, permissions=sorted(role.permissions), built_in=role.built_in)


def _tenant(tenant: Tenant) -> auth_pb2.Tenant:
    return auth_pb2.Tenant(
        id=str(tenant.id),
        name=tenant.name,
        created_at=timestamp(tenant.created_at),
        disabled_at=timestamp(tenant.disabled_at),
    )
