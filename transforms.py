"""What the settings have no word for: functions that change any resource on its way to the engine.

Each of `TRANSFORMS` gets every resource before it is registered and answers with other properties or options, or with
None for "as it is".  Properties are the object as YAML has it; secret ones arrive as `pulumi.Output`.  A worked
example: pods of production that others make room for, and a Deployment for which the cluster needs longer:

    def important(args: ResourceTransformArgs) -> ResourceTransformResult | None:
        if args.type_ != "kubernetes:apps/v1:Deployment":
            return None
        args.props["spec"]["template"]["spec"]["priorityClassName"] = "business"
        args.opts.custom_timeouts = CustomTimeouts(create="15m", update="15m")
        return ResourceTransformResult(args.props, args.opts)

    TRANSFORMS = [important]

What is changed here is not in the record of the route: a change of it counts as no new version, and no rule stops it.
With an empty list nothing is asked, which saves some milliseconds per resource.
"""

from __future__ import annotations

from pulumi import ResourceTransform

TRANSFORMS: list[ResourceTransform] = []
