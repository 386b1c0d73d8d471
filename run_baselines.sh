#!/usr/bin/env bash
# A table of baselines on one data set: trains and tests R2Gen, R2GenCMN, CAMANet and XProNet, and SGRRG last, with the
# same data, scores and decoding, then compares all of them.
#   bash run_baselines.sh iu_xray|mimic_cxr|phantom [--quick] [--only r2gen,cmn,camanet,xpronet,sgrrg] [key=value ...]
# Configurations: configs/iu_xray_r2gen.yaml, configs/iu_xray_cmn.yaml, configs/iu_xray_camanet.yaml,
# configs/iu_xray_xpronet.yaml, and configs/mimic_cxr_r2gen.yaml, configs/mimic_cxr_cmn.yaml,
# configs/mimic_cxr_camanet.yaml, configs/mimic_cxr_xpronet.yaml. On the phantom, which is simulated if it is missing, the
# techniques have the sizes and the training of configs/demo.yaml.
# Run folders: results/DATASET_SYSTEM; of SGRRG results/DATASET_sgrrg. The table: results/DATASET_baselines.html.
# If interrupted, the same command resumes; a system with results is not trained again.
# --quick takes a few steps on a few studies, only to check that all parts run; its results end in _quick.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh

usage="Usage: bash run_baselines.sh iu_xray|mimic_cxr|phantom [--quick] [--only r2gen,cmn,camanet,xpronet,sgrrg] [key=value ...]"
data_set=${1:-}
case $data_set in
    iu_xray | mimic_cxr | phantom) shift ;;
    *) fail "$usage" ;;
esac
suffix=
systems=r2gen,cmn,camanet,xpronet,sgrrg
while [[ ${1:-} == --* ]]; do
    case $1 in
        --quick) suffix=_quick ;;
        --only)
            systems=${2-}
            shift ;;
        *) fail "$usage" ;;
    esac
    shift
done
IFS=, read -ra systems <<<"$systems"
for system in "${systems[@]}"; do
    case $system in
        r2gen | cmn | camanet | xpronet | sgrrg) ;;
        *) fail "'$system' is not a system" "$usage" ;;
    esac
done
if [[ -n $(value_of name "" "$@") ]]; then
    fail "name=$(value_of name "" "$@") would give all systems the same run folder: leave it out, or set results=FOLDER"
fi

# settings_of SYSTEM : set `config` and `settings`. The techniques on the phantom are those of the configurations.
settings_of() {
    settings=("name=${data_set}_$1$suffix" train.resume=true)
    if [[ $suffix == _quick ]]; then
        settings+=(train.epochs=1 train.max_steps=2 train.validate_from=1 eval.validation_limit=2 eval.meteor_in_validation=false
            train.monitor=bleu_4 optim.batch_size=4)
    fi
    config=configs/${data_set}_$1.yaml
    if [[ $1 == sgrrg ]]; then
        config=configs/$data_set.yaml
    fi
    if [[ $data_set != phantom ]]; then
        return
    fi
    config=configs/demo.yaml
    settings+=("data.root=data/phantom$suffix")
    if [[ $1 != sgrrg ]]; then
        settings+=(model.graph_in=none model.norm=std model.activation=relu model.patch_projection=relu loss.grounding=0)
    fi
    case $1 in
        r2gen) settings+=(model.decoder.norms=memory model.decoder.memory_heads=4 model.observation_head=false) ;;
        cmn)
            settings+=(model.patch_positions=true model.cross_modal_memory.rows=512 model.cross_modal_memory.heads=4
                model.observation_head=false) ;;
        camanet)
            settings+=(model.decoder.norms=memory model.decoder.memory_heads=4 model.discriminative_map=true
                loss.attention_consistency=0.15) ;;
        xpronet)
            settings+=(model.patch_positions=true model.prototypes.per_observation=20 model.prototypes.channels=384
                model.prototypes.heads=4 loss.image_contrast=1 loss.text_contrast=0.1) ;;
    esac
}

if [[ $data_set == phantom ]]; then
    ensure_environment requirements.txt
    studies=3000
    if [[ $suffix == _quick ]]; then
        studies=80
    fi
    if [[ -z $(value_of data.root "" "$@") ]]; then
        "$PYTHON" -m data.prepare phantom --out "data/phantom$suffix" --studies "$studies" --image-size 128
    fi
else
    require_data_set "$data_set" "$(value_of data.root "data/$data_set" "$@")" "bash run_baselines.sh $data_set data.root=FOLDER"
    ensure_environment requirements.txt
fi

results=$(value_of results results "$@")
device=$(value_of train.device auto "$@")
split=$(value_of eval.split test "$@")
metrics=metrics.json
if [[ $split != test ]]; then
    metrics=metrics_$split.json
fi
scores=()
for system in "${systems[@]}"; do
    settings_of "$system"
    run=$results/${data_set}_$system$suffix
    scores+=("$run/$metrics")
    if [[ -f $run/$metrics ]]; then
        say "$system: keeping $run/$metrics, which exists"
        continue
    fi
    say "$system: training $config in $run"
    launch main_train.py --config "$config" "${settings[@]}" "$@"
    launch main_test.py --checkpoint "$run" --split "$split" --graph predicted --baselines none "train.device=$device"
done
if [[ ${#scores[@]} -gt 1 ]]; then
    "$PYTHON" -m modules.compare "${scores[@]}" --html "$results/${data_set}_baselines$suffix.html"
fi
