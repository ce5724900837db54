# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
JSON schemas of the manifests in the documents: as much of Kubernetes' API as they use, by the names
and types of its reference. Whatever is not here is refused, a misspelt field above all.
"""


def obj(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items):
    return {"type": "array", "items": items, "minItems": 1}


def const(*values):
    return {"enum": list(values)}


STRING = {"type": "string"}
PATH = {"type": "string", "pattern": "^/"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
NUMBER = {"type": "integer"}
BOOLEAN = {"type": "boolean"}
# Quantities such as 100m, 2 and 256Mi; a number is one too.
QUANTITY = {"anyOf": [NUMBER, {"type": "string", "pattern": "^[0-9]+(m|[KMGTPE]i?|k)?$"}]}
STRINGS = {"type": "object", "additionalProperties": STRING}

METADATA = obj(["name"], name=NAME, namespace=NAME, labels=STRINGS, annotations=STRINGS)
RESOURCES = obj(requests={"type": "object", "additionalProperties": QUANTITY},
                limits={"type": "object", "additionalProperties": QUANTITY})
ENV = obj(["name"], name=STRING, value=STRING, valueFrom=obj(
    configMapKeyRef=obj(["name", "key"], name=NAME, key=STRING),
    fieldRef=obj(["fieldPath"], fieldPath=STRING)))
MOUNT = obj(["name", "mountPath"], name=NAME, mountPath=PATH, readOnly=BOOLEAN, subPath=STRING,
            mountPropagation=const("None", "HostToContainer", "Bidirectional"))
CONTAINER = obj(["name", "image"], name=NAME, image=STRING, command=array(STRING), args=array(STRING), env=array(ENV),
                securityContext=obj(privileged=BOOLEAN, runAsUser=NUMBER, runAsGroup=NUMBER,
                                    capabilities=obj(add=array(STRING), drop=array(STRING))),
                resources=RESOURCES, volumeMounts=array(MOUNT))
HOST_PATH = obj(["path"], path=PATH, type=const("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket",
                                                "CharDevice", "BlockDevice"))
VOLUME = {**obj(["name"], name=NAME, hostPath=HOST_PATH, configMap=obj(["name"], name=NAME),
                emptyDir=obj(medium={"type": "string", "pattern": "^(|Memory|HugePages(-[0-9]+[MG]i)?)$"},
                             sizeLimit=QUANTITY)),
          "minProperties": 2, "maxProperties": 2}
POD_SPEC = obj(["containers"], containers=array(CONTAINER), volumes=array(VOLUME), nodeName=NAME, nodeSelector=STRINGS,
               priorityClassName=NAME, hostNetwork=BOOLEAN, hostPID=BOOLEAN,
               securityContext=obj(runAsUser=NUMBER, runAsGroup=NUMBER, fsGroup=NUMBER,
                                   supplementalGroups=array(NUMBER)))


def kind(version, name, **rest):
    return obj(["apiVersion", "kind", "metadata"], apiVersion=const(version), kind=const(name), metadata=METADATA, **rest)


MANIFESTS = {
    "ConfigMap": kind("v1", "ConfigMap", data=STRINGS),
    "Pod": kind("v1", "Pod", spec=POD_SPEC),
    "DaemonSet": kind("apps/v1", "DaemonSet", spec=obj(
        ["selector", "template"],
        selector=obj(["matchLabels"], matchLabels=STRINGS),
        updateStrategy=obj(["type"], type=const("OnDelete", "RollingUpdate")),
        template=obj(["metadata", "spec"], metadata=obj(labels=STRINGS, annotations=STRINGS), spec=POD_SPEC))),
    "NetworkAttachmentDefinition": kind("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition",
                                        spec=obj(["config"], config=STRING)),
    "KubeVirt": kind("kubevirt.io/v1", "KubeVirt", spec=obj(configuration=obj(
        developerConfiguration=obj(featureGates=array(STRING)),
        network=obj(binding={"type": "object", "additionalProperties": obj(
            sidecarImage=STRING, networkAttachmentDefinition=STRING,
            domainAttachmentType=const("tap", "managedTap"), downwardAPI=const("device-info"))})))),
    "VirtualMachineInstance": kind("kubevirt.io/v1", "VirtualMachineInstance", spec=obj(
        ["domain"],
        domain=obj(["devices"],
                   memory=obj(guest=QUANTITY, hugepages=obj(["pageSize"], pageSize=STRING)),
                   resources=RESOURCES,
                   devices=obj(interfaces=array(obj(["name"], name=NAME, macAddress=STRING, model=STRING,
                                                    binding=obj(["name"], name=NAME))))),
        networks=array(obj(["name"], name=NAME, multus=obj(["networkName"], networkName=STRING))))),
}

CNI = obj(["cniVersion", "name", "type"], cniVersion=STRING, name=STRING, type=STRING)

# Container Device Interface 0.5.0.
CDI = obj(["cdiVersion", "kind", "devices"], cdiVersion=const("0.5.0"),
          kind={"type": "string", "pattern": "^[A-Za-z0-9.-]+/[A-Za-z0-9_-]+$"},
          devices=array(obj(["name", "containerEdits"],
                            name={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]*$"},
                            containerEdits=obj(
                                env=array({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*="}),
                                mounts=array(obj(["hostPath", "containerPath"], hostPath=PATH, containerPath=PATH,
                                                 options=array(STRING)))))))

# Device Information Specification 1.1.0, of the type vhost-user.
DEVICE_INFO = {**obj(["type", "version", "vhost-user"], type=const("vhost-user"), version=const("1.1.0")),
               "properties": {"type": const("vhost-user"), "version": const("1.1.0"),
                              "vhost-user": obj(["mode", "path"], mode=const("client", "server"), path=PATH)}}
