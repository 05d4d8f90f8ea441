"""The console at `/console`: pages for operators, made on the server, with a little JavaScript of our own.

How to add a page:

1. A module with a router, `router = APIRouter(prefix="/console")`, named in `ROUTERS` of `console/app.py`. A
   handler takes `view: ViewDep` and no `Form()` parameters (fields are in `view.form`, read once the caller is
   known), and answers with one of

   - `view.page("jobs.html", at="jobs", jobs=...)`: a whole page; `at` marks its entry of the navigation,
   - `view.fragment("jobs_live.html", jobs=...)`: a part of one, which the page asks for again and again,
   - `await view.act(coroutine, "The job is cancelled.", to="/console/jobs")`: a change by a form; its message, or
     why it was refused, is shown on the page that follows.

   `view.parts`, `view.caller` and `view.actor` are what the API's handlers get: call these handlers with them,
   so that a change through the console is the same change.
2. A line in `SCOPES` of `console/scopes.py` for each route: what is not listed needs `admin`. A parameter of the
   path that is named `task` is checked against the tasks that the caller sees.
3. Templates in `console/templates/`. A page begins with `{% extends "layout.html" %}` and fills the blocks `title`
   and `main`; `parts.html` has macros for what pages share. Whatever is written with `{{ }}` is escaped; nothing
   may be marked safe. Styles and scripts inside a page are refused by its content security policy: a width is an
   attribute of SVG or a class.
4. Its entry in `NAVIGATION` of `console/view.py`, its line in docs/console.md, and its path in
   `tests/console/pages.py`, by which it is drawn in both widths and themes, and checked for accessibility.

What pages share:

- **Forms.** Every POST carries `{{ view.csrf }}` as the field `csrf`: `{{ parts.token(view) }}` in the form. One
  that uploads files sends its token in the address (`?csrf=...`), so that it is checked before the body is read.
- **Confirmation.** A link `<a href="..." data-dialog>` leads to a page that asks and has the form that acts, made
  by `parts.confirm`. With scripts it is shown in a `<dialog>`, without them it is a page.
- **Live parts.** `<div data-live="/console/...">` is filled again from this address every 2 s, unless the tab is
  hidden or the reader paused it, until an answer has an element with `data-live-end`.
- **Scripts.** A module in `console/static/`, brought by the page's block `scripts`.
"""
