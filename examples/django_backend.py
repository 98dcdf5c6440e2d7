"""A premium backend in Django: `JWT_SECRET=… python examples/django_backend.py runserver`. Tickets once a process."""

import os

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from pluct_verifier import SeenMemory, Verifier
from pluct_verifier.django import ticket_required

once = Verifier.once(audience="premium", secret=os.environ["JWT_SECRET"], seen=SeenMemory())


@ticket_required(once)
def transcribe(request: HttpRequest) -> JsonResponse:
    """Only with a ticket, which says who paid."""
    return JsonResponse({"user": request.ticket.user_id, "action": request.ticket.action, "text": "…"})


urlpatterns = [path("transcribe", transcribe)]
settings.configure(ROOT_URLCONF=__name__, DEBUG=True, SECRET_KEY=os.urandom(32).hex(), ALLOWED_HOSTS=["127.0.0.1"])
application = get_wsgi_application()
if __name__ == "__main__":
    execute_from_command_line()
